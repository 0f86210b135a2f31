"""The tests; they mirror deqzoo/."""
