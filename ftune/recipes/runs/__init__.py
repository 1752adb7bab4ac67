"""What the commands do once their recipe is valid; apart from the recipes, so that checking one stays light."""
