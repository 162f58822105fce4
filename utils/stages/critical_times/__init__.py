"""Critical times: basins of attraction."""
