"""How the world is touched: one outside thing per module, no decision about money or machines."""
