//! The `edgepress` program: everything is in the library.

fn main() -> std::process::ExitCode {
    edgepress::cli::main()
}
