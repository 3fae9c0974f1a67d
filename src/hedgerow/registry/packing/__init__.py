"""Publisher's side of a transfer in parts: a bundle becomes packs, a recipe, and patches from earlier versions."""
