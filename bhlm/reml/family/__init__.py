"""Maximum likelihood of the families: patterns -> FamilyEstimate, and what is asked of it."""
