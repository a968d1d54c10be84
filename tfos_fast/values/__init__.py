"""Values of Python, numpy and the JVM: element types, nested lists, times. It knows no columns and no channel."""
