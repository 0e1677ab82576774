"""Who can decrypt with a key and who controls it: searched by a solver, confirmed by policy/."""
