"""The audit of vaults: what is recorded for it beside changes, and how it is verified."""
