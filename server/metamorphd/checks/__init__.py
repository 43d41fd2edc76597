"""The checks of a deployment: one small function for each finding, over values that are passed in."""
