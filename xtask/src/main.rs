//! `cargo xtask`: what a contributor and CI run.

fn main() -> std::process::ExitCode {
    scp_xtask::main()
}
