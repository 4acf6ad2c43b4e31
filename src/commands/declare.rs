//! A command as it is declared, once: the shell and `monitor` parse with it, and
//! `--help`, `monitor help`, completions and man pages show it.

use std::{fmt, io};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, ColorChoice};

use super::{Answer, CommandError, Context, Result, Subject};
use crate::linux::Kernel;
use crate::process::Process;
use crate::text::{Screen, row};

/// The heading of options that only a vmcore has a meaning for
/// (`#[arg(help_heading = FOR_VMCORES)]`): for a process they are refused.
pub(super) const FOR_VMCORES: &str = "Options for a vmcore";

/// Columns of help in `monitor`: how wide the client is, nobody says.
const WIDTH: usize = 80;

/// What every command can be asked for.
const JSON: &str = "json";
/// Where in help that stands: behind the command's own options.
const LAST: usize = 900;

/// What a command does with one kind of dump: its parsed arguments go in, what it
/// answers may borrow from the dump.
type Run<D, A> = for<'d> fn(&'d D, A, Context<'d>) -> Result<Answer<'d>>;

/// The same, with its arguments not parsed yet.
type Erased<D> = Box<dyn for<'d> Fn(&'d D, &ArgMatches, Context<'d>) -> Result<Answer<'d>> + Send + Sync>;

/// A row of the table of commands.
pub struct Command {
    name: &'static str,
    summary: &'static str,
    help: &'static str,
    hidden: bool,
    /// Whether it has something to say of a dump whose kernel is not recognised.
    partly: bool,
    verbose: bool,
    /// The command for the other kind of dump.
    other: Option<&'static str>,
    arguments: fn(clap::Command) -> clap::Command,
    kernel: Option<Erased<Kernel>>,
    process: Option<Erased<Process>>,
}

impl Command {
    /// A command for both kinds of dumps.
    pub(super) fn of_both<A: Args + 'static>(
        name: &'static str,
        summary: &'static str,
        help: &'static str,
        kernel: Run<Kernel, A>,
        process: Run<Process, A>,
    ) -> Self {
        let (kernel, process) = (Some(erased(kernel)), Some(erased(process)));
        Self { kernel, process, ..Self::new::<A>(name, summary, help) }
    }

    /// A command that has no meaning for a process.
    pub(super) fn of_kernel<A: Args + 'static>(
        name: &'static str,
        summary: &'static str,
        help: &'static str,
        run: Run<Kernel, A>,
    ) -> Self {
        Self { kernel: Some(erased(run)), ..Self::new::<A>(name, summary, help) }
    }

    /// A command that has no meaning for a vmcore.
    pub(super) fn of_process<A: Args + 'static>(
        name: &'static str,
        summary: &'static str,
        help: &'static str,
        run: Run<Process, A>,
    ) -> Self {
        Self { process: Some(erased(run)), ..Self::new::<A>(name, summary, help) }
    }

    /// A command that does nothing yet.
    fn new<A: Args>(name: &'static str, summary: &'static str, help: &'static str) -> Self {
        Self {
            name,
            summary,
            help,
            hidden: false,
            partly: false,
            verbose: false,
            other: None,
            arguments: A::augment_args,
            kernel: None,
            process: None,
        }
    }

    /// The command, which works on a vmcore whose kernel is not recognised, too.
    pub(super) fn partly(self) -> Self {
        Self { partly: true, ..self }
    }

    /// The command, which works but is in no list: for helpers, not for people.
    pub(super) fn hidden(self) -> Self {
        Self { hidden: true, ..self }
    }

    /// The command, of which `name` is the like for the other kind of dump.
    pub(super) fn likewise(self, name: &'static str) -> Self {
        Self { other: Some(name), ..self }
    }

    /// The command, whose own `-v` stands for the program's, too.
    pub(super) fn verbose(self) -> Self {
        Self { verbose: true, ..self }
    }

    /// Whether it has a `-v` of its own.
    #[must_use]
    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// What is typed.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// One line for lists.
    #[must_use]
    pub fn summary(&self) -> &'static str {
        self.summary
    }

    /// Whether no list shows it.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        self.hidden
    }

    /// Whether it has a meaning for this kind of dump.
    pub(super) fn fits(&self, subject: Subject<'_>) -> bool {
        match subject {
            Subject::Kernel(_) => self.kernel.is_some(),
            Subject::Process(_) => self.process.is_some(),
        }
    }

    /// Declares the command's arguments and help behind those that `command` has already.
    #[must_use]
    pub fn declare(&self, command: clap::Command) -> clap::Command {
        let json = Arg::new(JSON).long(JSON).action(ArgAction::SetTrue).help("JSON for machines");
        let command = (self.arguments)(command.arg(json.display_order(LAST)))
            .about(self.summary)
            .long_about(None::<&str>)
            .after_help(self.help)
            .hide(self.hidden);
        // The command's own `-h` comes first.
        if command.get_arguments().any(|a| a.get_short() == Some('h')) {
            let help = Arg::new("help")
                .long("help")
                .action(ArgAction::Help)
                .help("Print help")
                .display_order(LAST + 99);
            return command.disable_help_flag(true).arg(help);
        }
        command
    }

    /// The command as `monitor` parses and explains it for a dump of this kind.
    pub(super) fn for_monitor(&self, subject: Subject<'_>) -> clap::Command {
        let command = in_monitor(clap::Command::new(self.name))
            .bin_name(format!("monitor {}", self.name))
            .no_binary_name(true);
        let process = matches!(subject, Subject::Process(_));
        let meant = |a: &Arg| !process || a.get_help_heading() != Some(FOR_VMCORES);
        self.declare(command).mut_args(|a| if meant(&a) { a } else { a.hide(true) })
    }

    /// What the command answers.
    pub(super) fn answer<'d>(
        &self,
        subject: Subject<'d>,
        given: &ArgMatches,
        context: Context<'d>,
    ) -> Result<Answer<'d>> {
        match (subject, &self.kernel, &self.process) {
            (Subject::Kernel(kernel), Some(run), _) => match kernel.lack().filter(|_| !self.partly) {
                Some(lack) => Err(CommandError::Failed(lack.to_string())),
                None => run(kernel, given, context),
            },
            (Subject::Process(process), _, Some(run)) => {
                self.refuse(given, FOR_VMCORES)?;
                run(process, given, context)
            }
            (Subject::Kernel(_), None, _) => Err(works_only("", "process cores", &self.other_of("a vmcore"))),
            (Subject::Process(_), _, None) => {
                Err(works_only("", "vmcores", &self.other_of("a process core")))
            }
        }
    }

    fn other_of(&self, kind: &str) -> String {
        kind.to_owned()
            + &self.other.map(|name| format!(", of which `{name}` tells the like")).unwrap_or_default()
    }

    /// An error if an option of this heading was given.
    fn refuse(&self, given: &ArgMatches, heading: &str) -> Result<()> {
        let mut declared = self.declare(clap::Command::new(self.name));
        declared.build();
        let was_given = |a: &&Arg| given.value_source(a.get_id().as_str()) == Some(ValueSource::CommandLine);
        let mut arguments = declared.get_arguments().filter(|a| a.get_help_heading() == Some(heading));
        arguments
            .find(was_given)
            .map_or(Ok(()), |a| Err(works_only(&format!("{a} is "), "vmcores", "a process core")))
    }
}

/// Help that comes out plain, and no wider than a client may be.
pub(super) fn in_monitor(command: clap::Command) -> clap::Command {
    command.color(ColorChoice::Never).term_width(WIDTH)
}

/// Writes what clap has to say.
pub(super) fn write_help(help: &dyn fmt::Display, screen: &mut Screen<'_>) -> io::Result<()> {
    help.to_string().trim_end().lines().try_for_each(|line| row!(screen, "{line}"))
}

/// Whether JSON was asked for.
pub(super) fn wants_json(given: &ArgMatches) -> bool {
    given.get_flag(JSON)
}

fn works_only(what: &str, kind: &str, other: &str) -> CommandError {
    CommandError::Usage(format!("{what}for {kind} only; this is {other}"))
}

fn erased<D: 'static, A: Args + 'static>(run: Run<D, A>) -> Erased<D> {
    Box::new(move |dump, given, context| {
        let arguments = A::from_arg_matches(given).map_err(|e| CommandError::Usage(e.to_string()))?;
        run(dump, arguments, context)
    })
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;
    use crate::commands::Text;

    #[derive(Args)]
    struct Arguments {
        /// Who is greeted
        #[arg(short, long, default_value = "world")]
        name: String,
        /// As in crash
        #[arg(short = 'h')]
        half: bool,
    }

    #[derive(Serialize)]
    struct Greeting(String);

    impl Text for Greeting {
        fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
            Ok(row!(screen, "hello, {}", self.0)?)
        }
    }

    fn hello() -> Command {
        fn run<'d>(_: &'d Kernel, args: Arguments, _: Context<'d>) -> Result<Answer<'d>> {
            Ok(Greeting(args.name).into())
        }
        Command::of_kernel("hello", "greet somebody", "Example: hello -n you", run)
    }

    /// What the recipe in `commands` promises of one declaration.
    #[test]
    fn a_declared_command_is_everywhere() {
        let mut command = hello().declare(clap::Command::new("hello"));
        let help = command.render_help().to_string();
        for part in ["greet somebody", "Who is greeted", "[default: world]", "--json", "Example: "] {
            assert!(help.contains(part), "{part}: {help}");
        }
        let mut program = clap::Command::new("corestub").subcommand(command);
        let mut page = Vec::new();
        let declared = program.find_subcommand("hello").cloned().unwrap();
        clap_mangen::Man::new(declared).render(&mut page).unwrap();
        assert!(String::from_utf8(page).unwrap().contains("Who is greeted"));
        let mut completions = Vec::new();
        clap_complete::generate(clap_complete::Shell::Fish, &mut program, "corestub", &mut completions);
        assert!(String::from_utf8(completions).unwrap().contains("greet somebody"));
    }

    #[test]
    fn a_commands_own_h_is_not_help() {
        let parse = |words: &[&str]| {
            let command = hello().declare(clap::Command::new("hello").no_binary_name(true));
            command.try_get_matches_from(words)
        };
        assert!(parse(&["-h"]).unwrap().get_flag("half"));
        assert_eq!(parse(&["--help"]).unwrap_err().kind(), clap::error::ErrorKind::DisplayHelp);
        assert!(wants_json(&parse(&["--json"]).unwrap()));
    }

    #[test]
    fn an_answer_is_rows_and_json() {
        let context =
            Context { thread: None, task: None, last_fault: None, cancelled: &|| false, progress: None };
        let shown = |json| {
            let mut out = Vec::new();
            Answer::from(Greeting("you\n\u{9b}".to_owned())).write(json, context, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(false), "hello, you..\n");
        assert_eq!(shown(true), "\"you\\n\\u009b\"\n");
    }
}
