"""`ramnas data`: a split of a data set -> image files; `data check`: a folder -> what it holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ramnas_edge.cli.terminal import Verbs, add_verb
from ramnas_host.cli.options import SPLITS, TASK_RECIPES, TRANSFER, data_option
from ramnas_models.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ramnas_host.annotations.check import Checked, Data, Part
    from ramnas_host.data.findings import Finding

_SHOWN_CLASSES = 100
# the recipe of ramnas finetune for a folder of one's own
_RECIPES = {**TASK_RECIPES, "classification": TRANSFER}
# the options of ramnas data that ramnas data check does not have, with their defaults
_OF_SPLITS = {"recipe": "digits", "data": None, "split": "report", "out": None}
# what is counted for each task, beside pictures
_COUNTED = {"detection": "objects", "segmentation": "pixels", "classification": "pictures"}


def add(verbs: Verbs) -> None:
    """Add this verb and its action to the command line."""
    data = add_verb(
        verbs, "data",
        help="write a split as image files; check a folder of labelled pictures",
        purpose="Writes one split of a recipe's data set as image files, one folder per class, so "
        "that ramnas-edge run can read them. `ramnas data check` looks at a folder of labelled "
        "pictures.",
        example="ramnas data --recipe digits --split report --out runs/test",
    )  # fmt: skip
    data.add_argument(
        "--recipe", default=_OF_SPLITS["recipe"],
        help="name or .yaml of the recipe that names the data set (default: digits)",
    )  # fmt: skip
    data_option(data)
    data.add_argument(
        "--split", default=_OF_SPLITS["split"], choices=SPLITS, help="(default: report)"
    )
    data.add_argument("--out", type=Path, metavar="DIR", help="folder to write")
    data.set_defaults(call=_data)

    actions = data.add_subparsers(metavar="ACTION")
    check = add_verb(
        actions, "check",
        help="look at a folder of labelled pictures before training on it",
        purpose="Reads a folder of labelled pictures as ramnas finetune does, looks at every "
        "picture, says what is in it and what is suspicious, and draws some pictures with their "
        "labels. The exit code is 1 if a network trained on it would be wrong, or would be judged "
        "wrongly.",
        example="ramnas data check runs/scenes/coco",
    )  # fmt: skip
    check.add_argument("folder", type=Path, metavar="DIR", help="the folder")
    check.add_argument(
        "--task", choices=tuple(_RECIPES),
        help="what the labels are for (default: what the layout of the folder shows)",
    )  # fmt: skip
    check.add_argument(
        "--sheet", type=Path, metavar="sheet.png",
        help="where to write the pictures with their labels (default: NAME-check.png here, with "
        "the name of the folder)",
    )  # fmt: skip
    check.add_argument("--json", action="store_true", help="print everything as JSON")
    check.set_defaults(call=_check)


def _data(args: argparse.Namespace) -> None:
    from ramnas_host.config import load_recipe
    from ramnas_host.data.datasets import load_dataset
    from ramnas_host.data.images import write_image_folder

    if args.out is None:
        raise DataError("name the folder to write with --out DIR")
    recipe = load_recipe(args.recipe)
    dataset = load_dataset(recipe.dataset, recipe.images, args.data)
    count = write_image_folder(dataset, args.split, args.out)
    print(f"{count} images: {args.out}")


def _check(args: argparse.Namespace) -> None:
    import sys
    from dataclasses import replace

    import cv2

    from ramnas_host.annotations.check import PARTS, Checked, check, keep_freed_memory
    from ramnas_host.annotations.contact_sheet import contact_sheet
    from ramnas_host.annotations.layouts import task_of
    from ramnas_host.cli.progress import bar
    from ramnas_host.data.findings import Finding
    from ramnas_models.files import write_file

    for option, default in _OF_SPLITS.items():
        if getattr(args, option) != default:
            raise DataError(f"--{option} is for writing a split: ramnas data check DIR has none")
    task = args.task or task_of(args.folder)
    sheet = args.sheet or Path(f"{args.folder.resolve().name}-check.png")
    if sheet.suffix.lower() != ".png":
        raise DataError(f"--sheet {sheet}: the name has to end in .png")
    try:
        data = _read(args.folder, task)
    except DataError as error:  # training would refuse it for the same reason
        refused = Checked((), (), (Finding(str(args.folder), str(error), 1, "", wrong=True),))
        print(_json(task, refused, None) if args.json else f"wrong: {error}")
        sys.exit(1)
    keep_freed_memory()
    total = sum(len(getattr(data, part)) for part in PARTS)
    with bar(f"look at {args.folder}", total) as update:
        count = 0

        def looked() -> None:
            nonlocal count
            count += 1
            update(count)

        checked = check(data, looked)
    checked = replace(checked, findings=(*checked.findings, *_of_less_than_a_batch(task, data)))
    print(_json(task, checked, sheet) if args.json else _overview(task, checked), flush=True)
    written, png = cv2.imencode(".png", contact_sheet(data))
    if not written:
        raise DataError(f"this OpenCV ({cv2.__version__}) cannot write {sheet} as PNG")
    write_file(sheet, png.tobytes())
    if not args.json:
        print(f"some pictures with their labels: {sheet}")
    if checked.wrong:
        sys.exit(1)


def _of_less_than_a_batch(task: str, data: Data) -> tuple[Finding, ...]:
    from ramnas_host.config import load_finetuning
    from ramnas_host.data.findings import Finding

    recipe, count = _RECIPES[task], len(data.train)
    batch = load_finetuning(recipe).batch_size
    if count >= batch:
        return ()
    what = (
        f"pictures, fewer than a batch of {batch} as in the recipe {recipe}, so give ramnas "
        "finetune a lower --batch-size, and a lower --lr with it"
    )
    return (Finding("train", what, count, ""),)


def _json(task: str, checked: Checked, sheet: Path | None) -> str:
    import msgspec

    found = {"task": task, "wrong": checked.wrong, "sheet": sheet and str(sheet), **vars(checked)}
    return msgspec.json.encode(found).decode()


def _read(folder: Path, task: str) -> Data:
    from ramnas_host.annotations.cityscapes import load_cityscapes
    from ramnas_host.annotations.coco import load_coco
    from ramnas_host.data.class_folders import load_class_folders

    if task == "detection":
        return load_coco(folder)
    if task == "segmentation":
        return load_cityscapes(folder, every_label=True)
    return load_class_folders(folder)


def _overview(task: str, checked: Checked) -> str:
    """The splits, the classes and the findings, for people."""
    from ramnas_host.data.findings import one_line

    lines = [f"{task}, {len(checked.classes)} classes", ""]
    lines += _table(
        ["split", "pictures", "not usable", "without a class", "smallest", "median", "largest"],
        [_split_row(part) for part in checked.parts],
    )
    counted = _COUNTED[task]
    head = ["class"]
    for part in checked.parts:
        head += [f"{part.name}: pictures"] + ([counted] if counted != "pictures" else [])
    rows = []
    for k, name in enumerate(checked.classes[:_SHOWN_CLASSES]):
        row = [one_line(name)]
        for part in checked.parts:
            row += [str(part.pictures_with[k])]
            row += [str(part.objects[k])] if counted != "pictures" else []
        rows.append(row)
    lines += ["", *_table(head, rows)]
    if len(checked.classes) > _SHOWN_CLASSES:
        lines.append(f"... and {len(checked.classes) - _SHOWN_CLASSES} more classes (see --json)")
    wrong = [finding for finding in checked.findings if finding.wrong]
    lines += ["", *(f"wrong: {finding}" for finding in wrong)]
    lines += [f"note: {finding}" for finding in checked.findings if not finding.wrong]
    lines.append(
        f"a network trained on it would be wrong, or judged wrongly; kinds of fault: {len(wrong)}"
        if wrong
        else "nothing was found that would make training wrong"
    )
    return "\n".join(lines)


def _split_row(part: Part) -> list[str]:
    sizes = [f"{width}x{height}" for width, height in part.sizes] or ["-"] * 3
    return [part.name, str(part.pictures), str(part.unreadable), str(part.empty), *sizes]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns of equal width: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
        for row in [head, *rows]
    ]
