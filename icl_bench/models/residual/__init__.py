"""What writes into the residual stream and what reads it, as parts that add up."""
