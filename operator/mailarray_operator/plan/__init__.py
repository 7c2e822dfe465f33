"""Pure decisions: what was observed and the time in, what shall be out. No client, clock or environment."""
