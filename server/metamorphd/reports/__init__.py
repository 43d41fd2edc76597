"""Reports of errors to Sentry: what of an error may leave the server, how often, and the client that sends it."""
