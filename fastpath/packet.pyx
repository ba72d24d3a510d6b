"""The verdicts, kinds and flags as Python enums."""
