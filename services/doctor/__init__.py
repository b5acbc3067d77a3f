"""What may be wrong with a machine of the fleet, and with the way to its peers: one plain function a check."""
