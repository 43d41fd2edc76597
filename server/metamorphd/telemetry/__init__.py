"""OpenTelemetry: which calls are recorded, what is said of them, and how it reaches a receiver."""
