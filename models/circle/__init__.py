"""The circle in the plane: exact energies and scores, a score network, the probability flow."""
