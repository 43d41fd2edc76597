"""The server of Metamorph."""
