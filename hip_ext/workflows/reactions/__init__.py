"""Transition states: guesses, saddles, paths down from them, and rates."""
