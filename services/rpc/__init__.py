"""What the three services share of transport: servers, channels, the status table, process set-up."""
