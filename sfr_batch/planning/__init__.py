"""What a run would do, as a value: `make.make_plan` compares corpus and table; `comparison` finds reusable vectors."""
