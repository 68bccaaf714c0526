//! scp-scheduler
