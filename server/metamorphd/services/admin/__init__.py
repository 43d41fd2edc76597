"""AdminService."""
