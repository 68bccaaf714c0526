//! scp-agent
