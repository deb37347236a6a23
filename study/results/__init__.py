from study.results.store import ResultStore, open_results

__all__ = ["ResultStore", "open_results"]
