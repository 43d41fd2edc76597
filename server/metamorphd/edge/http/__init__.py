"""Calls that come by HTTP."""
