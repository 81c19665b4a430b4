"""Networks: torch only. None of them knows a file, a name or a scaling factor."""
