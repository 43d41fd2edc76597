"""How the settings become parts: one module for each subject, which `metamorphd.server` puts together."""
