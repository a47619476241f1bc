"""What was measured, as versioned data: the RunRecord and its parts."""
