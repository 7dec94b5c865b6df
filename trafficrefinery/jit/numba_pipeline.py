"""What Numba does with a function of ours: as usual up to LLVM's language, which is then optimised once for a kernel.

Numba would optimise and translate each function together with all that it calls, so that Python can call it: what lies
ten calls deep ten times, of which the last one is used. That took more than half of the time of a first run.
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import AnalysisPass, register_pass
from numba.core.typed_passes import AnnotateTypes

_JITCodeLibrary: Any = JITCodeLibrary  # Numba has no types


class _Library(_JITCodeLibrary):  # type: ignore[misc]
    """The code of one function; of a kernel's, with what it calls, once `linked` is called."""

    def finalize(self) -> None:
        self._raise_if_finalized()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:  # noqa: ARG002
        """Null: it is not called from here."""
        self._ensure_finalized()
        return 0

    @property
    def codegen(self) -> Any:
        return _NoEnvironments

    def linked(self) -> Any:
        """The LLVM module with all that is called, optimised."""
        for library in _callers_first(self)[1:]:
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)  # noqa: SLF001
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        for _ in range(2):  # where functions became part of others, more counting of references cancels out
            self._optimize_final_module()
        return self._get_module_for_linking().clone()


class _NoEnvironments:
    """In place of the code generator where Numba tells a function its environment, which only Python code needs."""

    @staticmethod
    def set_env(name: str, environment: Any) -> None:
        pass


def _callers_first(library: Any) -> list[Any]:
    """All libraries that one needs, itself first: LLVM leaves out what nobody has called so far."""
    found, seen = [], set()

    def visit(one: Any) -> None:
        seen.add(one)
        for called in one._linking_libraries if isinstance(one, _Library) else ():  # noqa: SLF001
            if called not in seen:
                visit(called)
        found.append(one)

    visit(library)
    return found[::-1]


@register_pass(mutates_CFG=False, analysis_only=True)
class _TakeLibrary(AnalysisPass):
    """Have a function's code put into a `_Library`."""

    _name = "take_library"

    def __init__(self) -> None:
        AnalysisPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        state.library = _Library(state.targetctx.codegen(), state.func_id.func_qualname)
        return False


class Pipeline(CompilerBase):
    """Numba's passes, up to code in a `_Library`."""

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_TakeLibrary, AnnotateTypes)
        passes.finalize()
        return [passes]
