"""What every call passes: the guards, and the wrapper around them."""
