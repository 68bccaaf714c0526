//! scp-node
