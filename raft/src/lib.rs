//! scp-raft
