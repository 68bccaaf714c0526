//! scp-mesh
