"""Other libraries' ways of calling: a change of an import is enough to try deqzoo in code that is there already."""
