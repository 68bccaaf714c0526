//! Links in memory, for tests and simulation.
