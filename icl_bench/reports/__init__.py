"""Which files are written where: reports of each model, and the leaderboard."""
