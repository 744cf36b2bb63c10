"""The controller: watches the cluster and the market, reconciles, and holds the account's key."""
