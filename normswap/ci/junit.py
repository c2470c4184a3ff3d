"""A report as JUnit XML: one test suite; a failure fails, what is inconclusive is an error, a refusal is skipped."""

from __future__ import annotations

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from normswap.ci.cases import Report
from normswap.text import printable

RESULTS = {"fail": Failure, "inconclusive": Error, "refused": Skipped}


def junit(report: Report) -> str:
    """The XML document."""
    suite = TestSuite(printable(f"normswap {report.command} {report.subject}"))
    for case in report.cases:
        test = TestCase(printable(case.name), classname=printable(case.rule))
        message = printable(case.message)
        if case.status == "pass":
            test.system_out = message
        else:
            result = RESULTS[case.status](message, case.rule)
            result.text = message
            test.result = [result]
        suite.add_testcase(test)
    document = JUnitXml("normswap")
    document.add_testsuite(suite)
    document.update_statistics()  # type: ignore[no-untyped-call]
    written: bytes = document.tostring()  # type: ignore[no-untyped-call]
    return written.decode()
