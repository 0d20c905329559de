"""Who answers: the route table, the policy, admission, and the one dispatch path."""
