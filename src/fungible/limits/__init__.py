"""Rate limits and money budgets: reserve before a call, settle after it."""
