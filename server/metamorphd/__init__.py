"""The Metamorph server."""
