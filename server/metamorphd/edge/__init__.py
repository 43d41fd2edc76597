"""The edge: the pipeline that every call passes through, and an adapter for each protocol."""
