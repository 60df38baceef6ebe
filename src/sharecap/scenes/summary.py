def write_summary(story):
    return story.root
