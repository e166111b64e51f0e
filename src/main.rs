//! The `netwright` command.

fn main() -> std::process::ExitCode {
    netwright::cli::main()
}
