"""Jobs to boards, records back."""
