"""What gateways do when a model server misbehaves: a scriptable one, and a comparison."""
