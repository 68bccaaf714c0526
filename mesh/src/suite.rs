//! What every transport must pass.
