"""The settings, each read from the environment variable of the same name: a module for each subject."""
