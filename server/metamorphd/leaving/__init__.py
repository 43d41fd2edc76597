"""Deletes vaults, and keeps them deleted when a backup is restored that was made before."""
