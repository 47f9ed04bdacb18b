//! What a step that has no pid namespace must not do to other processes and nothing else refuses:
//! set their limits (`RLIMIT_CPU` is a way to kill), which `prlimit64` allows between processes of
//! one user. Those of the caller (process 0) can be set, and all can be read.

use std::sync::OnceLock;

use super::{
    ABIS, ALLOW, ARCHITECTURE, ARGUMENT_0, ARGUMENT_2, Abi, JUMP, JUMP_EQUAL, LOAD, NOT_PERMITTED,
    NUMBER, RETURN, branch, statement,
};
use crate::sys::BpfInstruction;

const PROCESS: u32 = ARGUMENT_0;
/// Both halves of the pointer to the new limit.
const NEW_LIMIT: [u32; 2] = [ARGUMENT_2, ARGUMENT_2 + 4];

/// Beside [`super::filter`], for this machine.
pub(crate) fn filter() -> &'static [BpfInstruction] {
    static FILTER: OnceLock<Vec<BpfInstruction>> = OnceLock::new();
    FILTER.get_or_init(|| assemble(ABIS))
}

fn assemble(abis: &[Abi]) -> Vec<BpfInstruction> {
    let mut program = vec![statement(LOAD, ARCHITECTURE)];
    for abi in abis {
        let block = [
            statement(LOAD, NUMBER),
            branch(JUMP_EQUAL, abi.prlimit, 1, 0),
            statement(RETURN, ALLOW),
            statement(LOAD, PROCESS),
            branch(JUMP_EQUAL, 0, 4, 0),
            statement(LOAD, NEW_LIMIT[0]),
            branch(JUMP_EQUAL, 0, 0, 3),
            statement(LOAD, NEW_LIMIT[1]),
            branch(JUMP_EQUAL, 0, 0, 1),
            statement(RETURN, ALLOW),
            statement(RETURN, NOT_PERMITTED),
        ];
        program.push(branch(JUMP_EQUAL, abi.architecture, 1, 0));
        program.push(statement(JUMP, block.len() as u32));
        program.extend(block);
    }
    // Of other machines nothing is left to refuse after the other filter.
    program.push(statement(RETURN, ALLOW));
    program
}

#[cfg(test)]
mod tests {
    use super::super::tests::verdict;
    use super::super::{AARCH64, X86_64};
    use super::*;

    #[test]
    fn limits_of_others_are_read_and_not_set() {
        for abis in [&X86_64, &AARCH64] {
            let program = assemble(abis);
            for abi in abis {
                let ask = |number, process, new| {
                    verdict(&program, number, abi.architecture, [process, 0, new])
                };
                let pointer = 0x7fff_0000_0000;
                assert_eq!(ask(abi.prlimit, 5, pointer), NOT_PERMITTED);
                assert_eq!(ask(abi.prlimit, 5, 16), NOT_PERMITTED);
                assert_eq!(ask(abi.prlimit, 5, 0), ALLOW);
                assert_eq!(ask(abi.prlimit, 0, pointer), ALLOW);
                assert_eq!(ask(abi.prlimit + 1, 5, pointer), ALLOW);
            }
        }
    }
}
