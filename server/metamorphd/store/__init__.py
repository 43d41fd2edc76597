"""Every operation on what is stored, written once."""
